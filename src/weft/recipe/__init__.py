"""What a run is: frozen values, decoded from YAML, with every mistake reported at once. No torch, no numpy."""
