"""Selection of the site and the settings of an edit."""
