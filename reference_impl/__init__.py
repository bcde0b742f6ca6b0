"""Reference implementations of methods against imbalance in object detection: `reference_impl.<kind>.<method>`.

The first line of a module names its paper. The file of `catalog/papers/` whose name begins with the first author's surname and the year
holds the method's entry, under the key `<kind>.<method>`: what it is for, its golden values, where code and paper differ. Its page on the
site, `methods/<kind>/<method>`, shows the entry and the module.
"""
