"""Thin adapters of jaxseg's statistics and losses to other libraries, each behind its extra."""
