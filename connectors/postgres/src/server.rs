//! What the source database's server says of itself.

use anabranch_core::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use crate::error::Context;
use crate::hosting::{Effect, Hosting, SIGNS};

/// The oldest server that is read from.
pub(crate) const SERVER_VERSION_MIN: u32 = 140_000;

/// A server, as one session sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// `server_version_num`.
    pub(crate) version: u32,
    pub(crate) system_id: u64,
    /// 0 on a standby.
    pub(crate) timeline: u32,
    pub(crate) is_standby: bool,
    pub(crate) wal_level: String,
    pub(crate) synchronous_standby_names: String,
    pub(crate) role: String,
    pub(crate) role_replicates: bool,
    pub(crate) hosting: Hosting,
}

// On RDS and Aurora a role replicates as a member of `rds_replication`.
const SERVER: &str = "
    select current_setting('server_version_num')::int4 as version,
           (select system_identifier from pg_control_system()) as system_id,
           pg_is_in_recovery() as is_standby,
           case when pg_is_in_recovery() then '0'
           else left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) end as timeline,
           current_setting('wal_level') as wal_level,
           current_setting('synchronous_standby_names') as synchronous_standby_names,
           rolname::text as role,
           rolreplication or rolsuper
           or exists (select from pg_roles r where r.rolname = 'rds_replication'
                      and pg_has_role(r.oid, 'usage')) as role_replicates";

impl Server {
    pub(crate) async fn read(client: &Client) -> Result<Self> {
        let action = || "ask PostgreSQL for its settings".to_owned();
        let query =
            format!("{SERVER}, {SIGNS} as signs from pg_roles where rolname = current_user");
        let row = client.query_one(&query, &[]).await.doing(action)?;
        let read = || {
            Ok::<_, tokio_postgres::Error>(Self {
                version: row.try_get::<_, i32>("version")?.unsigned_abs(),
                system_id: row.try_get::<_, i64>("system_id")?.cast_unsigned(),
                is_standby: row.try_get("is_standby")?,
                timeline: u32::from_str_radix(row.try_get("timeline")?, 16).unwrap_or(0),
                wal_level: row.try_get("wal_level")?,
                synchronous_standby_names: row.try_get("synchronous_standby_names")?,
                role: row.try_get("role")?,
                role_replicates: row.try_get("role_replicates")?,
                hosting: Hosting::of(&row.try_get::<_, Vec<String>>("signs")?),
            })
        };
        read().doing(action)
    }

    /// What keeps this server from being a source.
    pub(crate) fn require(&self, application_name: &str) -> Result<()> {
        self.obstacles(application_name).into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that keeps this server from being a source.
    pub(crate) fn obstacles(&self, application_name: &str) -> Vec<Error> {
        let config = |action: &str, why: String, help: String| {
            Error::new(ErrorKind::Config, action).with_source(why).with_help(help)
        };
        let mut obstacles = Vec::new();
        if self.version < SERVER_VERSION_MIN {
            let why = format!("its version is {}", self.version);
            obstacles.push(config("read this PostgreSQL", why, "version 14 is the oldest".into()));
        }
        if self.is_standby {
            let why = "it is a standby".to_owned();
            let help = "point [source] url at the primary: a standby's slot (16 and later) is not \
                        supported";
            let help = help.to_owned();
            obstacles.push(config("replicate from this server", why, help));
        }
        if self.wal_level != "logical" {
            let why = format!("wal_level is {}", self.wal_level);
            obstacles.push(config("decode the WAL", why, self.hosting.logical_help()));
        }
        if !self.role_replicates {
            let why = format!("role {} lacks REPLICATION", self.role);
            let help = self.hosting.replication_help(&self.role);
            obstacles.push(config("replicate", why, help));
        }
        if names(&self.synchronous_standby_names, application_name) {
            let why = format!("synchronous_standby_names is {}", self.synchronous_standby_names);
            let setting = "synchronous_standby_names";
            let example = self.hosting.set_help(setting, "FIRST 1 (a_standby)", Effect::Reload);
            let help = format!("name only standbys, not {application_name:?} and not *: {example}");
            let action = "replicate: commits would wait for us, and we for commits";
            obstacles.push(config(action, why, help));
        }
        obstacles
    }
}

/// Whether `synchronous_standby_names` covers `application_name`.
pub(crate) fn names(setting: &str, application_name: &str) -> bool {
    let separator = |c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')');
    setting
        .split(separator)
        .map(|name| name.trim_matches('"'))
        .any(|name| name == "*" || name.eq_ignore_ascii_case(application_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_must_not_be_a_synchronous_standby() {
        let cases = [
            ("", false),
            ("*", true),
            ("FIRST 1 (s1, \"*\")", true),
            ("ANY 2 (s1,Anabranch,s3)", true),
            ("FIRST 1 (anabranch_standby)", false),
        ];
        for (setting, expected) in cases {
            assert_eq!(names(setting, "anabranch"), expected, "{setting}");
        }
    }

    #[test]
    fn every_obstacle_is_named() {
        let server = Server {
            version: 130_000,
            system_id: 1,
            timeline: 1,
            is_standby: true,
            wal_level: "replica".into(),
            synchronous_standby_names: "*".into(),
            role: "reader".into(),
            role_replicates: false,
            hosting: Hosting::Plain,
        };
        let obstacles = server.obstacles("anabranch");
        assert_eq!(obstacles.len(), 5);
        assert!(obstacles.iter().all(|error| error.kind() == ErrorKind::Config));
        assert!(obstacles[3].report().contains("ALTER ROLE \"reader\" REPLICATION"));
        let good = Server {
            version: 150_018,
            is_standby: false,
            wal_level: "logical".into(),
            synchronous_standby_names: String::new(),
            role_replicates: true,
            ..server
        };
        good.require("anabranch").unwrap();
    }
}
