//! Who runs the server: a managed service has switches of its own for what is SQL elsewhere.

use postgres_protocol::escape::escape_identifier;

/// A kind of server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Hosting {
    /// One that takes `ALTER SYSTEM`.
    #[default]
    Plain,
    /// Amazon RDS.
    Rds,
    /// Amazon Aurora.
    Aurora,
    /// Google Cloud SQL.
    CloudSql,
    /// Google AlloyDB.
    AlloyDb,
    /// Azure Database for PostgreSQL.
    Azure,
}

/// The roles and settings that tell services apart; none of them exists on a server of one's own.
pub(crate) const SIGNS: &str = "
    array(select rolname::text from pg_roles
          where rolname in ('rds_superuser', 'cloudsqlsuperuser', 'alloydbsuperuser',
                            'azure_pg_admin')
          union all
          select name from pg_settings
          where name in ('rds.logical_replication', 'cloudsql.logical_decoding',
                         'alloydb.logical_decoding', 'azure.replication_support')
          union all
          select proname::text from pg_proc where proname = 'aurora_version')";

impl Hosting {
    /// From what of [`SIGNS`] is there. The more particular sign comes first: an Aurora has the
    /// roles of RDS, an AlloyDB those of Cloud SQL.
    pub(crate) fn of(signs: &[String]) -> Self {
        let known = [
            ("aurora_version", Self::Aurora),
            ("alloydbsuperuser", Self::AlloyDb),
            ("alloydb.logical_decoding", Self::AlloyDb),
            ("rds_superuser", Self::Rds),
            ("rds.logical_replication", Self::Rds),
            ("cloudsqlsuperuser", Self::CloudSql),
            ("cloudsql.logical_decoding", Self::CloudSql),
            ("azure_pg_admin", Self::Azure),
            ("azure.replication_support", Self::Azure),
        ];
        let is_there = |sign: &str| signs.iter().any(|seen| seen == sign);
        known.into_iter().find(|(sign, _)| is_there(sign)).map_or(Self::Plain, |(_, host)| host)
    }

    /// Its name; `None` for a server of one's own.
    pub(crate) fn name(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Rds => Some("Amazon RDS"),
            Self::Aurora => Some("Amazon Aurora"),
            Self::CloudSql => Some("Google Cloud SQL"),
            Self::AlloyDb => Some("Google AlloyDB"),
            Self::Azure => Some("Azure Database for PostgreSQL"),
        }
    }

    /// How `wal_level = logical` is had.
    pub(crate) fn logical_help(self) -> String {
        match self {
            Self::Plain => "ALTER SYSTEM SET wal_level = logical; then restart PostgreSQL",
            Self::Rds => "set rds.logical_replication = 1 in the DB parameter group, then reboot",
            Self::Aurora => {
                "set rds.logical_replication = 1 in the DB cluster parameter group, then reboot \
                 the writer"
            }
            Self::CloudSql => {
                "gcloud sql instances patch INSTANCE --database-flags=cloudsql.logical_decoding=on \
                 (with the other flags it has)"
            }
            Self::AlloyDb => "set the flag alloydb.logical_decoding = on of the instance",
            Self::Azure => {
                "az postgres flexible-server parameter set --name wal_level --value logical, then \
                 restart"
            }
        }
        .to_owned()
    }

    /// How a setting is changed.
    pub(crate) fn set_help(self, setting: &str, value: &str, when: Effect) -> String {
        let then = match when {
            Effect::Reload => " SELECT pg_reload_conf();",
            Effect::Restart => " then restart PostgreSQL",
        };
        let where_ = match self {
            Self::Plain => return format!("ALTER SYSTEM SET {setting} = '{value}';{then}"),
            Self::Rds => "the DB parameter group",
            Self::Aurora => "the DB cluster parameter group",
            Self::CloudSql | Self::AlloyDb => "the flags of the instance",
            Self::Azure => "the server parameters",
        };
        let restart = match when {
            Effect::Reload => "",
            Effect::Restart => ", then restart",
        };
        format!("set {setting} = '{value}' in {where_}{restart}")
    }

    /// How a role is let replicate.
    pub(crate) fn replication_help(self, role: &str) -> String {
        let quoted = escape_identifier(role);
        match self {
            Self::Rds | Self::Aurora => format!("GRANT rds_replication TO {quoted};"),
            Self::Plain | Self::CloudSql | Self::AlloyDb | Self::Azure => {
                format!("ALTER ROLE {quoted} REPLICATION;")
            }
        }
    }
}

/// When a changed setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Reload,
    Restart,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_told_apart_by_what_they_add() {
        let cases: [(&[&str], Hosting); 6] = [
            (&[], Hosting::Plain),
            (&["rds_superuser", "rds.logical_replication"], Hosting::Rds),
            (&["rds_superuser", "aurora_version"], Hosting::Aurora),
            (&["cloudsqlsuperuser"], Hosting::CloudSql),
            (&["cloudsqlsuperuser", "alloydbsuperuser"], Hosting::AlloyDb),
            (&["azure_pg_admin"], Hosting::Azure),
        ];
        for (signs, expected) in cases {
            let signs: Vec<String> = signs.iter().map(|sign| (*sign).to_owned()).collect();
            assert_eq!(Hosting::of(&signs), expected, "{signs:?}");
        }
    }

    #[test]
    fn each_has_its_own_switches() {
        assert!(Hosting::Rds.logical_help().contains("rds.logical_replication"));
        assert!(Hosting::CloudSql.logical_help().contains("cloudsql.logical_decoding"));
        assert_eq!(Hosting::Aurora.replication_help("r"), "GRANT rds_replication TO \"r\";");
        assert_eq!(
            Hosting::Plain.set_help("x", "1", Effect::Reload),
            "ALTER SYSTEM SET x = '1'; SELECT pg_reload_conf();"
        );
        let azure = Hosting::Azure.set_help("x", "1", Effect::Restart);
        assert!(!azure.contains("ALTER SYSTEM") && azure.contains("restart"), "{azure}");
    }
}
