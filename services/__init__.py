"""The three services: intake owns cases, locator speaks to systems, exporter owns packages."""
