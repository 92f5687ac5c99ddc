"""The browser app: it shows what the floors below it do."""
