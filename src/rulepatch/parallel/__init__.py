"""Work that is shared out: over processes, devices and machines."""
