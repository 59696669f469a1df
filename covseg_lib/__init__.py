"""covseg: COVID-19 lesion segmentation in chest CT. Not a medical device."""

__version__ = "0.1.0"
