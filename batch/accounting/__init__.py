"""Where every accepted event is: counts that must agree, and what was refused, put back."""
