//! How many instructions the verifier may look at for each program: about 20 % more than on the kernel that needs most.
//! Of the first six that is Linux 6.18, which follows twice as many as 6.1; of those of sockets 6.1.
//! It gives up at a million; time to load and the reach of older kernels go with the number.

pub(crate) const BUDGET: [(&str, u32); 16] = [
    ("hm_from_cont", 125_000),
    ("hm_to_cont", 73_000),
    ("hm_from_uplink", 125_000),
    ("hm_to_uplink", 72_000),
    ("hm_pub_select", 105_000),
    ("hm_xdp", 12_000),
    ("hm_connect4", 5_600),
    ("hm_connect6", 6_200),
    ("hm_sendmsg4", 8_200),
    ("hm_sendmsg6", 7_000),
    ("hm_recvmsg4", 400),
    ("hm_recvmsg6", 480),
    ("hm_peername4", 400),
    ("hm_peername6", 480),
    ("hm_release", 45),
    ("hm_sock_ops", 2_100),
];
