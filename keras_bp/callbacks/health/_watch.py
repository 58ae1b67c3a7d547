"""From what rules see in single updates to findings."""

from keras_bp.callbacks.health._course import TrainingCourse
from keras_bp.callbacks.health._rule import Epochs
from keras_bp.callbacks.health.finding import Finding


class HealthWatch:
    """Asks rules about each update and epoch, and counts how long a symptom lasts.

    Args:
        rules: list of rules.

    Attributes:
        findings: list of `Finding`, one for each rule and layer at most, in order.
        course: the `TrainingCourse`.
    """

    def __init__(self, rules):
        self.findings = []
        self.course = TrainingCourse()
        self._rules = rules
        self._lasting = {rule.name: {} for rule in rules}

    def see_update(self, update):
        """Return the new findings after an `Update`, a list."""
        self.course.add(update)
        # What comes after the first number that is none tells nothing more.
        if any(finding.rule == "not_finite" for finding in self.findings):
            return []
        new = []
        for rule in self._rules:
            # And what is no number itself can be judged by no other rule.
            if not update.finite and rule.name != "not_finite":
                continue
            symptoms = rule.in_update(update)
            if symptoms is None:
                continue
            before = self._lasting[rule.name]
            lasting = {symptom.layer: before.get(symptom.layer, 0) + 1 for symptom in symptoms}
            self._lasting[rule.name] = lasting
            for symptom in symptoms:
                if symptom.at_once or lasting[symptom.layer] >= rule.updates:
                    new += self._find(rule, symptom, update.step)
        return new

    def see_epoch(self, logs, step):
        """Return the new findings after an epoch, a list."""
        course = self.course
        course.add_epoch(logs)
        # A loss that the train step does not show is NaN.
        start = course.start if course.start == course.start else course.losses[0]
        epochs = Epochs(start, course.losses, course.validated)
        seen = [(rule, symptom) for rule in self._rules for symptom in rule.in_epochs(epochs)]
        return [finding for pair in seen for finding in self._find(*pair, step)]

    def _find(self, rule, symptom, step):
        """Return the finding in a list, or nothing if there is one like it already."""
        if any((f.rule, f.layer) == (rule.name, symptom.layer) for f in self.findings):
            return []
        advice = symptom.advice or rule.advice
        value, threshold = float(symptom.value), float(symptom.threshold)
        about = symptom.layer, step, value, threshold, symptom.description, advice
        self.findings.append(Finding(rule.name, *about))
        return self.findings[-1:]
