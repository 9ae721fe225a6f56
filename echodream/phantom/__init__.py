"""A parametric beating heart in an apical four-chamber view: anatomy, motion, tissue, pixels, truth."""
