/// The first byte of an input says in pieces of how many bytes the rest comes.
pub(crate) fn cut(input: &[u8]) -> Option<(usize, &[u8])> {
    let (step, rest) = input.split_first()?;
    Some((usize::from(*step).max(1), rest))
}
