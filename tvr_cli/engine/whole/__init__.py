"""What calls all of the above: the demo, recipes, the doctor, imports, and lists of what there is."""
