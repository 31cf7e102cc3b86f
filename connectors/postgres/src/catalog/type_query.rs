//! Reads `pg_type`: the types of columns, and everything that they are made of.

use anabranch_core::Result;
use tokio_postgres::{Client, Row};

use super::types::{RawPart, TypeInfo, TypeKind, Types};
use crate::error::Context;
use crate::value::ValuePolicies;

const TYPES: &str = "
    with recursive used(oid) as (
      select distinct unnest($1::oid[])
      union
      select part.oid
      from used join pg_type t on t.oid = used.oid
      cross join lateral (
        select t.typbasetype where t.typtype = 'd'
        union all select t.typelem where t.typelem <> 0
        union all select rngsubtype from pg_range where rngtypid = t.oid
        union all select rngtypid from pg_range where rngmultitypid = t.oid
        union all select atttypid from pg_attribute
          where t.typtype = 'c' and attrelid = t.typrelid and attnum > 0 and not attisdropped
      ) part(oid))
    select t.oid, format_type(t.oid, null) as name, t.typname::text, t.typtype::text, t.typbasetype,
           t.typtypmod, t.typelem, coalesce(e.typarray = t.oid, false) as is_array,
           coalesce(e.typdelim::text, ',') as delimiter, x.extname::text,
           coalesce(r.rngsubtype, 0) as bound, coalesce(m.rngtypid, 0) as range,
           a.names, a.oids, a.typmods
    from used join pg_type t on t.oid = used.oid
    left join pg_type e on e.oid = t.typelem
    left join pg_range r on r.rngtypid = t.oid
    left join pg_range m on m.rngmultitypid = t.oid
    left join pg_depend d on d.classid = 'pg_type'::regclass and d.objid = t.oid and d.deptype = 'e'
      and d.refclassid = 'pg_extension'::regclass
    left join pg_extension x on x.oid = d.refobjid
    cross join lateral (
      select coalesce(array_agg(attname::text order by attnum), '{}') as names,
             coalesce(array_agg(atttypid order by attnum), '{}') as oids,
             coalesce(array_agg(atttypmod order by attnum), '{}') as typmods
      from pg_attribute
      where t.typtype = 'c' and attrelid = t.typrelid and attnum > 0 and not attisdropped) a";

/// The types `oids`, whose values are read by `policies`.
pub(super) async fn load_types(
    client: &Client,
    oids: &[u32],
    policies: ValuePolicies,
) -> Result<Types> {
    let action = || "read the types of the source database".to_owned();
    let mut types = Types::new(policies);
    for row in client.query(TYPES, &[&oids]).await.doing(action)? {
        let (oid, info) = type_info(&row).doing(action)?;
        types.insert(oid, info);
    }
    Ok(types)
}

fn type_info(row: &Row) -> Result<(u32, TypeInfo), tokio_postgres::Error> {
    let class: &str = row.try_get("typtype")?;
    let kind = match class {
        "d" => TypeKind::Domain {
            base: row.try_get("typbasetype")?,
            typmod: row.try_get("typtypmod")?,
        },
        "e" => TypeKind::Enum,
        "r" => TypeKind::Range { bound: row.try_get("bound")? },
        "m" => TypeKind::Multirange { range: row.try_get("range")? },
        "c" => TypeKind::Composite(parts(row)?),
        _ if row.try_get("is_array")? => {
            let delimiter: &str = row.try_get("delimiter")?;
            let delimiter = delimiter.bytes().next().unwrap_or(b',');
            TypeKind::Array { element: row.try_get("typelem")?, delimiter }
        }
        _ => TypeKind::Base { name: row.try_get("typname")?, extension: row.try_get("extname")? },
    };
    Ok((row.try_get("oid")?, TypeInfo { name: row.try_get("name")?, kind }))
}

fn parts(row: &Row) -> Result<Vec<RawPart>, tokio_postgres::Error> {
    let names: Vec<String> = row.try_get("names")?;
    let oids: Vec<u32> = row.try_get("oids")?;
    let typmods: Vec<i32> = row.try_get("typmods")?;
    let parts = names.into_iter().zip(oids.into_iter().zip(typmods));
    Ok(parts.map(|(name, (type_oid, typmod))| RawPart { name, type_oid, typmod }).collect())
}
