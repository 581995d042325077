use super::*;

fn fresh() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("berth.db")).unwrap();
    (dir, store)
}

#[test]
fn records_survive_a_reopen() {
    let (dir, store) = fresh();
    store.put(Table::Sandboxes, "a", &vec![1, 2], Durability::Ordinary).unwrap();
    store.put(Table::Sandboxes, "a", &vec![3], Durability::Flushed).unwrap();
    store.put_container("c", "a", &vec![4]).unwrap();
    store.set_meta("boot", "x").unwrap();
    drop(store);
    let store = Store::open(&dir.path().join("berth.db")).unwrap();
    let (rows, damaged) = store.all::<Vec<i32>>(Table::Sandboxes).unwrap();
    assert_eq!(rows, [("a".to_owned(), vec![3])]);
    assert!(damaged.is_empty());
    assert_eq!(store.count(Table::Containers).unwrap(), 1);
    assert_eq!(store.meta("boot").unwrap().as_deref(), Some("x"));
    assert_eq!(store.meta("none").unwrap(), None);
}

#[test]
fn replacing_brings_nothing_back() {
    let (_dir, store) = fresh();
    store.put_container("c", "a", &1).unwrap();
    store.replace(Table::Containers, "c", &2).unwrap();
    assert_eq!(store.all::<i32>(Table::Containers).unwrap().0, [("c".to_owned(), 2)]);
    store.delete(Table::Containers, "c").unwrap();
    store.replace(Table::Containers, "c", &3).unwrap();
    assert_eq!(store.count(Table::Containers).unwrap(), 0);
}

#[test]
fn one_damaged_record_hides_no_other() {
    let (_dir, store) = fresh();
    store.put(Table::Images, "good", &7, Durability::Ordinary).unwrap();
    store.put(Table::Images, "bad", &"text", Durability::Ordinary).unwrap();
    let (rows, damaged) = store.all::<i32>(Table::Images).unwrap();
    assert_eq!(rows, [("good".to_owned(), 7)]);
    assert_eq!(damaged.len(), 1);
    assert_eq!(damaged[0].id, "bad");
}

#[test]
fn deleting_twice_is_no_error() {
    let (_dir, store) = fresh();
    store.put(Table::Layers, "l", &1, Durability::Ordinary).unwrap();
    store.delete(Table::Layers, "l").unwrap();
    store.delete(Table::Layers, "l").unwrap();
    assert_eq!(store.count(Table::Layers).unwrap(), 0);
}

#[test]
fn a_database_of_a_newer_release_is_refused() {
    let (dir, store) = fresh();
    store.lock().pragma_update(None, "user_version", 999).unwrap();
    drop(store);
    let error = Store::open(&dir.path().join("berth.db")).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 999, .. }), "{error}");
}
