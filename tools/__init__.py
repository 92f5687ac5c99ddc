"""Programs that made files of the package, run at the root of the repository; no part of the wheel."""
