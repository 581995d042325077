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
            closed: &links[..1],
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

#[test]
fn what_a_table_has_is_compared_with_what_it_should_have() {
    let netns = berth_sys::netns::new_netns().unwrap();
    berth_sys::netns::run_in(netns.as_fd(), || {
        let (tables, reader) = (Tables::default(), Reader::open()?);
        let whole =
            Pod { addresses: vec![[10, 1, 0, 7].into()], masquerade: true, forwards: pod(7, 1).forwards };
        assert_eq!((reader.standing("berth-test")?, reader.has_rules("berth-test")?), (None, false));
        let missing = reader.held("berth-test", &whole, Some("br-test"))?;
        assert!(
            missing.len() == 7 && missing.iter().all(|one| one.state == HeldState::Missing),
            "{missing:?}"
        );
        let links = ["br-test".to_owned()];
        let pods = [whole.clone()];
        let table = Table {
            name: "berth-test",
            links: &links,
            closed: &[],
            isolated: false,
            loopback6: None,
            pods: &pods,
        };
        tables.install(&table)?;
        let there = reader.held("berth-test", &whole, Some("br-test"))?;
        assert!(there.iter().all(|one| one.state == HeldState::There), "{there:?}");
        let texts: Vec<&str> = there.iter().map(|one| one.text.as_str()).collect();
        assert_eq!(
            texts[..6],
            [
                "10.1.0.7",
                "10.1.0.7",
                "10.1.0.7",
                "TCP 1000 to 10.1.0.7:80",
                "TCP 1000 to [fd00::7]:80",
                "127.0.0.1 UDP 1000 to 10.1.0.7:53",
            ]
        );
        assert!(reader.has_rules("berth-test")?);
        let standing = reader.standing("berth-test")?.unwrap();
        assert_eq!(standing.elements["ports4"], ["TCP 1000 to 10.1.0.7:80"]);
        assert_eq!(standing.elements["links"], ["br-test"]);
        assert!(standing.elements["pods6"].is_empty() && standing.translating > 0);
        // Somebody else's by now.
        let part = Pod { addresses: whole.addresses.clone(), masquerade: false, forwards: vec![] };
        tables.remove("berth-test", &Pod { forwards: whole.forwards.clone(), ..Pod::default() })?;
        tables.add("berth-test", &Pod { forwards: pod(8, 1).forwards, ..Pod::default() })?;
        tables.remove("berth-test", &part)?;
        let held = reader.held("berth-test", &whole, None)?;
        let states: Vec<&HeldState> = held.iter().map(|one| &one.state).collect();
        let other = |place: &str| HeldState::Other(place.into());
        assert_eq!(
            states,
            [
                &HeldState::Missing,
                &HeldState::There,
                &HeldState::Missing,
                &other("10.1.0.8:80"),
                &other("[fd00::8]:80"),
                &other("10.1.0.8:53"),
            ]
        );
        Ok(())
    })
    .unwrap();
}
