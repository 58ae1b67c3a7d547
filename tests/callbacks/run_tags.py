"""What a run's event file tells of its settings, beside what a callback writes."""

SETTINGS = {
    "_hparams_/session_start_info",
    "keras_bp/settings",
    "settings/model",
    "settings/training",
}
