//! nftables rules of the shape that kube-proxy's nftables mode makes: a verdict map from address, protocol and port
//! to a chain per service, a random choice there, and a chain per endpoint that translates the destination.

use std::fmt::Write as _;

use super::{SERVICE_PORT, Service};

/// Everything around the services: hooks, the maps and sets, masquerading by mark.
const BASE: &str = r"add table ip kube-proxy
flush table ip kube-proxy
add map ip kube-proxy service-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy service-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-services { type ipv4_addr . inet_proto . inet_service : verdict ; }
add map ip kube-proxy no-endpoint-nodeports { type inet_proto . inet_service : verdict ; }
add map ip kube-proxy firewall-ips { type ipv4_addr . inet_proto . inet_service : verdict ; }
add set ip kube-proxy cluster-ips { type ipv4_addr ; }
add set ip kube-proxy nodeport-ips { type ipv4_addr ; }
add chain ip kube-proxy cluster-ips-check
add chain ip kube-proxy firewall-check
add chain ip kube-proxy mark-for-masquerade
add chain ip kube-proxy masquerading
add chain ip kube-proxy nodeport-endpoints-check
add chain ip kube-proxy service-endpoints-check
add chain ip kube-proxy services
add chain ip kube-proxy filter-prerouting { type filter hook prerouting priority -110 ; }
add chain ip kube-proxy filter-input { type filter hook input priority -110 ; }
add chain ip kube-proxy filter-forward { type filter hook forward priority -110 ; }
add chain ip kube-proxy filter-output { type filter hook output priority -110 ; }
add chain ip kube-proxy filter-output-post-dnat { type filter hook output priority -90 ; }
add chain ip kube-proxy nat-prerouting { type nat hook prerouting priority -100 ; }
add chain ip kube-proxy nat-output { type nat hook output priority -100 ; }
add chain ip kube-proxy nat-postrouting { type nat hook postrouting priority 100 ; }
add rule ip kube-proxy cluster-ips-check ip daddr @cluster-ips reject
add rule ip kube-proxy cluster-ips-check ip daddr { 10.96.0.0/16 } drop
add rule ip kube-proxy firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add rule ip kube-proxy mark-for-masquerade meta mark set meta mark or 0x4000
add rule ip kube-proxy masquerading meta mark and 0x4000 == 0 return
add rule ip kube-proxy masquerading meta mark set meta mark xor 0x4000
add rule ip kube-proxy masquerading masquerade fully-random
add rule ip kube-proxy nodeport-endpoints-check ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports
add rule ip kube-proxy service-endpoints-check ip daddr . meta l4proto . th dport vmap @no-endpoint-services
add rule ip kube-proxy services ip daddr . meta l4proto . th dport vmap @service-ips
add rule ip kube-proxy services ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
add rule ip kube-proxy filter-prerouting ct state new jump firewall-check
add rule ip kube-proxy filter-input ct state new jump nodeport-endpoints-check
add rule ip kube-proxy filter-input ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump service-endpoints-check
add rule ip kube-proxy filter-forward ct state new jump cluster-ips-check
add rule ip kube-proxy filter-output ct state new jump service-endpoints-check
add rule ip kube-proxy filter-output ct state new jump firewall-check
add rule ip kube-proxy filter-output-post-dnat ct state new jump cluster-ips-check
add rule ip kube-proxy nat-prerouting jump services
add rule ip kube-proxy nat-output jump services
add rule ip kube-proxy nat-postrouting jump masquerading
";

/// The transaction that loads `services` (IPv4) into an empty namespace.
pub(crate) fn load(services: &[Service]) -> String {
    let mut rules = BASE.to_owned();
    for service in services {
        rules += &add(service);
    }
    rules
}

/// The transaction that adds one service.
pub(crate) fn add(service: &Service) -> String {
    let mut rules = String::new();
    let (address, own) = (service.address, chain(service));
    let mut choices = String::new();
    for (i, backend) in service.backends.iter().enumerate() {
        let (ip, endpoint) = (backend.ip(), endpoint(service, i));
        let _ = write!(
            rules,
            "add chain ip kube-proxy {endpoint}\n\
             add rule ip kube-proxy {endpoint} ip saddr {ip} jump mark-for-masquerade\n\
             add rule ip kube-proxy {endpoint} meta l4proto tcp dnat to {backend}\n"
        );
        let _ = write!(choices, "{}{i} : goto {endpoint}", if i == 0 { "" } else { " , " });
    }
    let _ = write!(
        rules,
        "add chain ip kube-proxy {own}\n\
         add rule ip kube-proxy {own} ip daddr {address} tcp dport {SERVICE_PORT} ip saddr != 10.88.0.0/16 jump mark-for-masquerade\n\
         add rule ip kube-proxy {own} numgen random mod {} vmap {{ {choices} }}\n\
         add element ip kube-proxy cluster-ips {{ {address} }}\n\
         add element ip kube-proxy service-ips {{ {address} . tcp . {SERVICE_PORT} : goto {own} }}\n",
        service.backends.len()
    );
    rules
}

/// The transaction that removes it.
pub(crate) fn remove(service: &Service) -> String {
    let (address, own) = (service.address, chain(service));
    let mut rules = format!(
        "delete element ip kube-proxy service-ips {{ {address} . tcp . {SERVICE_PORT} }}\n\
         delete element ip kube-proxy cluster-ips {{ {address} }}\n\
         flush chain ip kube-proxy {own}\ndelete chain ip kube-proxy {own}\n"
    );
    for i in 0..service.backends.len() {
        let endpoint = endpoint(service, i);
        let _ = write!(rules, "flush chain ip kube-proxy {endpoint}\ndelete chain ip kube-proxy {endpoint}\n");
    }
    rules
}

fn chain(service: &Service) -> String {
    format!("service-{:08X}-default/svc-{}/tcp/http", service.number.wrapping_mul(0x9e37_79b9), service.number)
}

fn endpoint(service: &Service, i: usize) -> String {
    let backend = service.backends[i];
    format!(
        "endpoint-{:08X}-svc-{}/tcp/http__{}/{}",
        service.number.wrapping_mul(0x9e37_79b9),
        service.number,
        backend.ip(),
        backend.port()
    )
}
