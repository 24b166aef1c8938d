"""One document as people think of it: its tokens, what each source said there, what was fused, and why."""
