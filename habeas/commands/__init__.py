"""What does each command of `habeas` do? One module a command."""
