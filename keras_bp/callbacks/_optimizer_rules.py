"""The rules inside an optimizer, and which variables are whose."""


def rules_of(optimizer):
    """List the optimizers that hold a rule, looking into wrappers and composites."""
    if hasattr(optimizer, "inner_optimizer"):
        return rules_of(optimizer.inner_optimizer)
    if hasattr(optimizer, "optimizers"):
        return [rule for inner in optimizer.optimizers for rule in rules_of(inner)]
    return [optimizer]


def is_of(rule, variable):
    """Tell whether an optimizer updates a variable; Keras has no public way to ask."""
    return rule._var_key(variable) in rule._trainable_variables_indices


def accumulator(rules, variable):
    """Find the variable in which the gradients since the last update are summed."""
    rule = next(rule for rule in rules if is_of(rule, variable))
    return rule._accumulated_gradients[rule._get_variable_index(variable)]
