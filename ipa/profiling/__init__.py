"""From measurements to operating points: measuring, fitting, base allocation."""
