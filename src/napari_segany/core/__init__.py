"""Values, geometry, intensity, masks and errors: what every layer speaks. Imports no other layer."""
