"""covseg: COVID-19 lesion segmentation in chest CT, from NIfTI volumes to a table of scores.

The notebooks tell the story, these modules do the work, one idea each. Importing the package loads neither
Keras nor TensorFlow: `unet`, `objectives`, `training` and `prediction` do, and only they.

A teaching and research project. Not a medical device.
"""

__version__ = "0.1.0"
