//! Whose rights a process gets: `user`, `uid`, `user:group`, … against the image's `/etc/passwd` and `/etc/group`.
//! Pure; the files are read by [`super::rootfs`].

/// The two files; empty where the image has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct UserDb {
    pub passwd: String,
    pub group: String,
}

/// Numeric rights, and the home directory for `HOME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ResolvedUser {
    pub uid: u32,
    pub gid: u32,
    pub extra_groups: Vec<u32>,
    pub home: String,
}

impl UserDb {
    /// Resolves as Docker does: no user is root; a number need not be in the files, a name must be; without a group
    /// it is the user's own with its supplementary groups, with one it is only that.
    pub(super) fn resolve(&self, wanted: Option<&str>) -> Result<ResolvedUser, String> {
        let wanted = wanted.filter(|w| !w.is_empty()).unwrap_or("0");
        let (user, group) = wanted.split_once(':').map_or((wanted, None), |(u, g)| (u, Some(g)));
        let number: Option<u32> = user.parse().ok();
        let entry = self.passwd.lines().filter_map(PasswdLine::parse).find(|l| l.name == user || number == Some(l.uid));
        let uid = match (&entry, number) {
            (Some(entry), _) => entry.uid,
            (None, Some(uid)) => uid,
            (None, None) => return Err(format!("the image has no user {user:?}")),
        };
        let home = entry.as_ref().map(|e| e.home).filter(|h| !h.is_empty()).unwrap_or("/").to_owned();
        let Some(group) = group.filter(|g| !g.is_empty()) else {
            let gid = entry.as_ref().map_or(0, |e| e.gid);
            let name = entry.as_ref().map_or(user, |e| e.name);
            let member = |l: &GroupLine<'_>| l.gid != gid && l.members.split(',').any(|m| m == name);
            let extra_groups = self.groups().filter(member).map(|l| l.gid).collect();
            return Ok(ResolvedUser { uid, gid, extra_groups, home });
        };
        let named = self.groups().find(|l| l.name == group).map(|l| l.gid);
        let gid = named.or_else(|| group.parse().ok()).ok_or_else(|| format!("the image has no group {group:?}"))?;
        Ok(ResolvedUser { uid, gid, extra_groups: Vec::new(), home })
    }

    /// The name of a user.
    pub(super) fn name_of(&self, uid: u32) -> Option<String> {
        let line = self.passwd.lines().filter_map(PasswdLine::parse).find(|line| line.uid == uid);
        line.map(|line| line.name.to_owned())
    }

    /// Adds groups by name or number, as `--group-add` does: a name must be in the image's files.
    pub(super) fn add_groups(&self, user: &mut ResolvedUser, wanted: &[String]) -> Result<(), String> {
        for group in wanted {
            let named = self.groups().find(|line| line.name == group).map(|line| line.gid);
            let gid =
                named.or_else(|| group.parse().ok()).ok_or_else(|| format!("the image has no group {group:?}"))?;
            if !user.extra_groups.contains(&gid) {
                user.extra_groups.push(gid);
            }
        }
        Ok(())
    }

    fn groups(&self) -> impl Iterator<Item = GroupLine<'_>> {
        self.group.lines().filter_map(GroupLine::parse)
    }
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let f: Vec<&str> = line.trim().split(':').collect();
        let [name, _, uid, gid, _, home, ..] = f[..] else { return None };
        Some(Self { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    }
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupLine<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let f: Vec<&str> = line.trim().split(':').collect();
        let [name, _, gid, members, ..] = f[..] else { return None };
        Some(Self { name, gid: gid.parse().ok()?, members })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolves_as_docker_does() {
        let db = UserDb {
            passwd: "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:101:102:w:/srv:/bin/false\n".to_owned(),
            group: "root:x:0:root\nwheel:x:10:root,web\nweb:x:102:web\nlogs:x:200:web\n".to_owned(),
        };
        let check = |wanted: Option<&str>, uid, gid, extra: &[u32], home: &str| {
            let expect = ResolvedUser { uid, gid, extra_groups: extra.to_vec(), home: home.to_owned() };
            assert_eq!(db.resolve(wanted), Ok(expect), "{wanted:?}");
        };
        check(None, 0, 0, &[10], "/root");
        check(Some(""), 0, 0, &[10], "/root");
        check(Some("web"), 101, 102, &[10, 200], "/srv");
        check(Some("101"), 101, 102, &[10, 200], "/srv");
        check(Some("web:logs"), 101, 200, &[], "/srv");
        check(Some("web:999"), 101, 999, &[], "/srv");
        check(Some("4242"), 4242, 0, &[], "/");
        check(Some("4242:4343"), 4242, 4343, &[], "/");
        for bad in ["nobody", "web:none", "-1", ":"] {
            assert!(db.resolve(Some(bad)).is_err(), "{bad}");
        }
        assert_eq!(db.name_of(101).as_deref(), Some("web"));
        assert_eq!(db.name_of(7), None);
        let mut user = db.resolve(Some("web:logs")).expect("is there");
        let groups = ["wheel", "4242", "4242", "200"].map(str::to_owned);
        assert_eq!(db.add_groups(&mut user, &groups).map(|()| user.extra_groups.clone()), Ok(vec![10, 4242, 200]));
        assert!(db.add_groups(&mut user, &["none".to_owned()]).is_err());
        assert_eq!(UserDb::default().resolve(None).map(|u| (u.uid, u.gid)), Ok((0, 0)));
    }
}
