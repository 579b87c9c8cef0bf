use core::net::IpAddr;

use super::*;

fn addr(text: &str) -> Addr {
    text.parse::<IpAddr>().unwrap().into()
}

#[test]
fn addresses_come_back_as_they_went() {
    for text in ["10.88.0.5", "0.0.0.0", "255.255.255.255", "fd68:6d00:0:1::5", "::1", "2001:db8::"] {
        let ip: IpAddr = text.parse().unwrap();
        assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        assert_eq!(Addr::from(ip).is_v4(), ip.is_ipv4());
    }
    assert_eq!(addr("10.88.0.5"), addr("::ffff:10.88.0.5"));
    assert_eq!(addr("10.0.0.1").v4_be().to_ne_bytes(), [10, 0, 0, 1]);
}

#[test]
fn own_machine_is_loopback_and_unspecified() {
    for (text, own) in [
        ("127.0.0.1", true),
        ("127.255.255.255", true),
        ("0.0.0.0", true),
        ("::1", true),
        ("::", true),
        ("128.0.0.1", false),
        ("::2", false),
        ("fe80::1", false),
    ] {
        assert_eq!(addr(text).is_own_machine(), own, "{text}");
    }
}

#[test]
fn ranges_match_their_addresses_only() {
    let range = Range { network: addr("10.88.0.0"), mask: addr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:0") };
    assert!(range.contains(&addr("10.88.255.1")));
    assert!(!range.contains(&addr("10.89.0.1")));
    assert!(!range.contains(&addr("fd68::1")));
    for text in ["::", "0.0.0.0", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"] {
        assert!(!Range::NONE.contains(&addr(text)), "{text}");
    }
}
