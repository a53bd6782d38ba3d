"""Tiny pipelines, hostile files and other material that tests share."""
