"""Sets of variants on InfAdapter's published capacities and on random tasks: time and checked optima."""
