use std::sync::Arc;

use super::{
    super::answer::tests::{desired, two_projects},
    *,
};

#[test]
fn a_table_that_followed_says_what_a_new_one_says() {
    let with = |rows: &[(&str, u32, &str, usize)]| {
        let mut told = NodeDesired { revision: 1, ..NodeDesired::default() };
        for (key, id, name, backends) in rows {
            let one = desired(*backends);
            let mut served = (**one.services.values().next().expect("one")).clone();
            served.service.key.name = key.parse().expect("a name");
            (served.service.id, served.service.dns_names) = (*id, vec![(*name).to_owned()]);
            told.services.insert(served.service.key.clone(), Arc::new(served));
        }
        told
    };
    let mut table = DnsTable::default();
    for (rows, differs) in [
        (vec![("a", 1, "x.local", 1), ("b", 2, "y.local", 1)], true),
        (vec![("a", 1, "x.local", 1), ("b", 2, "y.local", 1)], false),
        (vec![("a", 1, "x.local", 2), ("b", 2, "y.local", 1)], true),
        (vec![("a", 1, "x.local", 0), ("b", 2, "y.local", 1)], true),
        // One takes what another lets go, whichever comes first.
        (vec![("a", 1, "y.local", 1), ("b", 2, "x.local", 1)], true),
        (vec![("a", 1, "z.local", 1)], true),
        // Another service of the same name.
        (vec![("a", 3, "z.local", 1)], true),
        (vec![], true),
    ] {
        let told = with(&rows);
        assert_eq!(table.follow(&told), differs, "{rows:?}");
        assert_eq!(table, DnsTable::new(&told), "{rows:?}");
    }
}

#[test]
fn a_table_that_followed_networks_says_what_a_new_one_says() {
    let all = two_projects();
    let mut table = DnsTable::new(&all);
    let mut fewer = all.clone();
    let gone: Vec<_> = fewer.services.keys().take(2).cloned().collect();
    gone.iter().for_each(|key| drop(fewer.services.remove(key)));
    let first = fewer.instances.keys().next().cloned().expect("one");
    fewer.instances.remove(&first);
    assert!(table.follow(&fewer) && !table.follow(&fewer));
    assert_eq!(table, DnsTable::new(&fewer));
    assert!(table.follow(&all));
    assert_eq!(table, DnsTable::new(&all));
}

#[test]
fn instances_ask_their_node() {
    let servers = Addresses { v4: Some([10, 88, 0, 1].into()), v6: "fd00::1".parse().ok() };
    let text = resolv_conf(&servers, &Scope::default(), &DnsSpec::default());
    assert_eq!(
        text,
        "nameserver 10.88.0.1\nnameserver fd00::1\nsearch default.default.hivemind\n\
         options ndots:1 timeout:2 attempts:2\n"
    );
}
