"""Do the planner's engines agree with each other and with enumeration, over thousands of random instances."""
