//! How many instructions the verifier may look at for each program: about 20 % more than it does on Linux 6.1, which
//! looks at nearly three times as many as 6.18 where policies are judged.
//! The three programs that answer what they drop have been measured on 6.18 only since they do, with room for 6.1.
//! It gives up at a million; time to load and the reach of older kernels go with the number.

pub(crate) const BUDGET: [(&str, u32); 13] = [
    ("hm_from_cont", 140_000),
    ("hm_to_cont", 95_000),
    ("hm_from_uplink", 125_000),
    ("hm_pub_select", 125_000),
    ("hm_connect4", 5_600),
    ("hm_connect6", 6_200),
    ("hm_sendmsg4", 3_500),
    ("hm_sendmsg6", 3_700),
    ("hm_recvmsg4", 80),
    ("hm_recvmsg6", 100),
    ("hm_peername4", 80),
    ("hm_peername6", 100),
    ("hm_release", 45),
];
