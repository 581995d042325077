use std::collections::BTreeSet;
use std::path::Path;

use super::*;

/// Bytes of one target's corpus.
const CORPUS_MAX: u64 = 100 * 1024;

fn names(directory: &Path) -> BTreeSet<String> {
    let entries =
        std::fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_corpus_is_read() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&corpus), targets, "each target has a directory, each directory a target");
    for (name, target) in TARGETS {
        let directory = corpus.join(name);
        let mut size = 0;
        for file in names(&directory) {
            let input = std::fs::read(directory.join(&file)).unwrap();
            size += input.len() as u64;
            println!("{name}/{file}");
            target(&input);
        }
        assert!((1..=CORPUS_MAX).contains(&size), "{name} has {size} bytes");
        target(&[]);
    }
}
