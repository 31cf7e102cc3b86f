//! What the role may see. What it may not see would be missing without a word.

use anabranch_core::Result;
use postgres_protocol::escape::escape_identifier;

use crate::catalog::RawTable;
use crate::error::Context;
use crate::publication::quoted;

use super::{Facts, Findings};

/// What the role may do with one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    /// USAGE on its schema.
    usage: bool,
    select: bool,
    /// No row level security stands between.
    all_rows: bool,
}

const RIGHTS: &str = "
    select c.oid, has_schema_privilege(c.relnamespace, 'usage') as usage,
           has_table_privilege(c.oid, 'select') as select,
           not row_security_active(c.oid) as all_rows
    from pg_class c where c.oid = any($1)";

pub(super) async fn look(
    facts: &Facts<'_>,
    tables: &[RawTable],
    findings: &mut Findings,
) -> Result<()> {
    let action = || "look at what the role may read".to_owned();
    let oids: Vec<u32> = tables.iter().map(|table| table.oid).collect();
    let rows = facts.session.query(RIGHTS, &[&oids]).await.doing(action)?;
    let before = findings.0.len();
    for row in &rows {
        let oid: u32 = row.try_get("oid").doing(action)?;
        let rights = Rights {
            usage: row.try_get("usage").doing(action)?,
            select: row.try_get("select").doing(action)?,
            all_rows: row.try_get("all_rows").doing(action)?,
        };
        if let Some(table) = tables.iter().find(|table| table.oid == oid) {
            judge(&facts.server.role, table, rights, findings);
        }
    }
    if findings.0.len() == before && !rows.is_empty() {
        let role = &facts.server.role;
        findings.fine("privileges", format!("role {role} may read every row of the tables"));
    }
    Ok(())
}

fn judge(role: &str, table: &RawTable, rights: Rights, findings: &mut Findings) {
    let subject = format!("table {}", table.full_name());
    let quoted_role = escape_identifier(role);
    if !rights.usage {
        findings.block(
            &subject,
            format!("role {role} has no USAGE on schema {}", table.schema),
            format!("GRANT USAGE ON SCHEMA {} TO {quoted_role};", escape_identifier(&table.schema)),
        );
    }
    if !rights.select {
        findings.block(
            &subject,
            format!("role {role} may not read it"),
            format!("GRANT SELECT ON {} TO {quoted_role};", quoted(table)),
        );
    }
    if !rights.all_rows {
        findings.block(
            &subject,
            format!("row level security hides rows of it from role {role}"),
            format!("ALTER ROLE {quoted_role} BYPASSRLS;"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::tests::raw_orders;

    #[test]
    fn each_missing_right_comes_with_its_grant() {
        let mut findings = Findings::default();
        let none = Rights { usage: false, select: false, all_rows: false };
        judge("app", &raw_orders(), none, &mut findings);
        let help: Vec<&str> = findings.0.iter().map(|finding| finding.help.as_str()).collect();
        assert_eq!(
            help,
            [
                "GRANT USAGE ON SCHEMA \"shop\" TO \"app\";",
                "GRANT SELECT ON \"shop\".\"orders\" TO \"app\";",
                "ALTER ROLE \"app\" BYPASSRLS;"
            ]
        );
        let mut findings = Findings::default();
        let all = Rights { usage: true, select: true, all_rows: true };
        judge("app", &raw_orders(), all, &mut findings);
        assert!(findings.0.is_empty());
    }
}
