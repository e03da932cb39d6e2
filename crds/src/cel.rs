//! What rules (CEL) have in common.

/// An optional text is what it was; an empty one is as good as none. (Written out, because the API server can't bound the
/// cost of comparing what `orValue` returns.)
pub(crate) fn same(field: &str) -> String {
    format!(
        "(has(self.{field}) && self.{field} != '') == (has(oldSelf.{field}) && oldSelf.{field} != '') \
         && (!has(self.{field}) || !has(oldSelf.{field}) || self.{field} == oldSelf.{field})"
    )
}
