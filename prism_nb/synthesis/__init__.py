"""Synthesis (recover): optimise images so that frozen teachers recognise them as real."""
