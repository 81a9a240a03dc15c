"""Readers and writers: label stores, OME-Zarr, TIFF, pictures, prompt files and exports."""
