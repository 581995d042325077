use std::os::fd::AsFd as _;

use super::*;

fn pod(n: u8, ports: u16) -> Pod {
    let (v4, v6) = ([10, 1, 0, n].into(), [0xfd00, 0, 0, 0, 0, 0, 0, u16::from(n)].into());
    let forward = |port: u16| {
        let one = |to| Forward { protocol: 6, address: None, port, to: (to, 80) };
        let bound = Forward { protocol: 17, address: Some([127, 0, 0, 1].into()), port, to: (v4, 53) };
        [one(v4), one(v6), bound]
    };
    Pod {
        addresses: vec![v4, v6],
        masquerade: true,
        forwards: (0..ports).flat_map(|p| forward(p + 1000)).collect(),
    }
}

const LOOPBACK: std::net::Ipv6Addr = std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1);

#[test]
fn a_table_comes_and_goes() {
    let netns = berth_sys::netns::new_netns().unwrap();
    berth_sys::netns::run_in(netns.as_fd(), || {
        let links = ["br-test".to_owned(), "br-other".to_owned()];
        let table = |pods| Table {
            name: "berth-test",
            links: &links,
            isolated: true,
            loopback6: Some(LOOPBACK),
            pods,
        };
        let tables = Tables::default();
        tables.install(&table(&[]))?;
        tables.install(&table(&[pod(1, 2000)]))?;
        let other = pod(2, 0);
        tables.add("berth-test", &other)?;
        tables.add("berth-test", &other)?;
        tables.remove("berth-test", &other)?;
        tables.remove("berth-test", &other)?;
        tables.remove("berth-test", &pod(1, 2000))?;
        // All of them went: the same ports for another pod.
        tables.add("berth-test", &pod(3, 2000))?;
        tables.remove("berth-test", &pod(3, 2000))?;
        tables.add("berth-test", &pod(3, 3))?;
        tables.remove("berth-test", &pod(3, 4))?;
        tables.add("berth-test", &pod(5, 4))?;
        tables.remove("berth-test", &pod(5, 4))?;
        tables.add("berth-test", &pod(3, 3))?;
        let taken = tables.add("berth-test", &pod(4, 1)).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AlreadyExists);
        tables.delete("berth-test")?;
        tables.remove("berth-test", &pod(3, 1))?;
        tables.delete("berth-test")
    })
    .unwrap();
}
