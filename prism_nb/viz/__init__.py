"""Tables, figures, reports, and widgets."""
