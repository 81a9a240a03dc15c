"""napari: dock widgets, readers, writers and sample data."""
