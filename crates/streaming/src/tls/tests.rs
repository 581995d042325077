use std::time::Duration;

use super::*;

fn write(files: &Tls, when: u64) {
    let pair = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    std::fs::write(&files.certificate, pair.cert.pem()).unwrap();
    std::fs::write(&files.key, pair.signing_key.serialize_pem()).unwrap();
    stamp(files, when);
}

/// Times that differ however fast the test is.
fn stamp(files: &Tls, when: u64) {
    let file = std::fs::File::options().write(true).open(&files.certificate).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(when)).unwrap();
}

fn files(directory: &Path) -> Tls {
    Tls {
        certificate: directory.join("cert.pem"),
        key: directory.join("key.pem"),
        client_ca: None,
        min_version: TlsVersion::V1_2,
    }
}

#[test]
fn changed_certificates_are_taken_over_and_broken_ones_are_not() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    write(&files, 1000);
    let keeper = Keeper::open(files.clone()).unwrap();
    let first = keeper.config();
    keeper.refresh();
    assert!(Arc::ptr_eq(&first, &keeper.config()), "unchanged files are not read");
    write(&files, 2000);
    keeper.refresh();
    let second = keeper.config();
    assert!(!Arc::ptr_eq(&first, &second));
    std::fs::write(&files.certificate, "nonsense").unwrap();
    stamp(&files, 3000);
    keeper.refresh();
    assert!(Arc::ptr_eq(&second, &keeper.config()), "the old one stays");
    write(&files, 4000);
    keeper.refresh();
    assert!(!Arc::ptr_eq(&second, &keeper.config()), "and is followed by the next good one");
}

#[test]
fn what_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let files = files(directory.path());
    let told = |files: &Tls| Keeper::open(files.clone()).err().unwrap().to_string();
    assert!(told(&files).contains("key.pem"), "{}", told(&files));
    write(&files, 1000);
    std::fs::write(&files.certificate, "").unwrap();
    assert!(told(&files).contains("cert.pem holds no certificate"), "{}", told(&files));
    write(&files, 1000);
    let other = rcgen::generate_simple_self_signed(vec!["other".into()]).unwrap();
    std::fs::write(&files.key, other.signing_key.serialize_pem()).unwrap();
    assert!(told(&files).contains("and its key"), "{}", told(&files));
    write(&files, 1000);
    let with_ca = Tls { client_ca: Some(directory.path().join("ca.pem")), ..files };
    assert!(told(&with_ca).contains("ca.pem"), "{}", told(&with_ca));
}
