//! Objects by id or unique id prefix, as every id field of CRI allows.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;

use crate::PodsError;

/// The one object whose id is `text` or begins with it.
pub(crate) fn find<'a, K, V>(
    objects: &'a BTreeMap<K, V>,
    kind: &'static str,
    text: &str,
) -> Result<Option<&'a V>, PodsError>
where
    K: Ord + Borrow<str>,
{
    if text.is_empty() {
        return Err(PodsError::Empty {
            field: if kind == "sandbox" { "pod_sandbox_id" } else { "container_id" },
        });
    }
    if let Some(exact) = objects.get(text) {
        return Ok(Some(exact));
    }
    let mut matching = objects
        .range::<str, _>((Bound::Included(text), Bound::Unbounded))
        .take_while(|(id, _)| (*id).borrow().starts_with(text));
    match (matching.next(), matching.count()) {
        (None, _) => Ok(None),
        (Some((_, only)), 0) => Ok(Some(only)),
        (Some(_), more) => Err(PodsError::Ambiguous { kind, prefix: text.to_owned(), matches: more + 1 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ids::SandboxId;

    #[test]
    fn ids_and_prefixes() {
        let id = |head: &str| SandboxId::parse(format!("{head:0<64}")).unwrap();
        let objects: BTreeMap<_, _> = [("ab1", 1), ("ab2", 2), ("c", 3)].map(|(h, n)| (id(h), n)).into();
        assert_eq!(find(&objects, "sandbox", "ab1").unwrap(), Some(&1));
        assert_eq!(find(&objects, "sandbox", "c").unwrap(), Some(&3));
        assert_eq!(find(&objects, "sandbox", id("ab2").as_str()).unwrap(), Some(&2));
        assert_eq!(find(&objects, "sandbox", "f").unwrap(), None);
        assert!(matches!(find(&objects, "sandbox", "ab"), Err(PodsError::Ambiguous { matches: 2, .. })));
        assert!(matches!(find(&objects, "sandbox", ""), Err(PodsError::Empty { .. })));
    }
}
