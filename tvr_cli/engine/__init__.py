"""What the commands do: every command calls one function here and prints what it returns."""
