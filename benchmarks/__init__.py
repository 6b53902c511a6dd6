"""How fast is Habeas, and how much does it need? Measured from outside, through the doors that people use."""
