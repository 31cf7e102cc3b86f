//! A value of every kind is equal in all three stores, from the snapshot and from the stream.

use anabranch::status::Report;

use crate::support::services;
use crate::support::world::World;

/// What travels as itself, made of parts or not.
const TYPES: &str = "
    CREATE EXTENSION hstore;
    CREATE TYPE pair AS (a int, b text, at timestamp);
    CREATE TYPE nest AS (\"it's\" pair, ints int[], gap interval, noon time);
    CREATE DOMAIN price AS numeric(8,2);
    CREATE TABLE parts (
        id numeric(12,2) PRIMARY KEY, gap interval, wide numeric(76,10), below numeric(5,-2),
        tiny numeric(2,5), cash money, o oid, x xid8, at pg_lsn, words hstore, p price,
        r int4range, nr numrange, tr tsrange, mr int4multirange, c pair, n nest, cs pair[],
        rs int4range[], gaps interval[], net inet, bits varbit, day date, moment timestamptz
    );";

const VALUES: &str = r#"
    INSERT INTO parts VALUES
    (1.50, '1 year 2 mons -3 days 04:05:06.789',
     999999999999999999999999999999999999999999999999999999999999999999.9999999999, 1234500, 0.00012,
     '-92233720368547758.08', 4294967295, '18446744073709551615', '16/B374D848',
     '"a"=>"1", "b"=>NULL, "q\""=>"x y"', 12.5, '[1,5)', '[1.10,2.5]',
     '["2026-01-01 10:00:00.123456",)', '{[1,3),[5,)}', '(1,"a,b",2026-01-01 10:00:00.123456)',
     '("(1,""x"",)","{1,NULL}","1 day",04:05:06.789012)', '{"(1,\"a,b\",)",NULL}',
     '{"[1,2)",NULL,empty}', '{1 day,PT1S}', '10.1.2.3/8', '101', '2026-01-01', '2026-01-01 10:00:00.1+00'),
    (-2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
     NULL, NULL, NULL, NULL, NULL, NULL, NULL),
    (3, '0', -0.0000000001, 0, 0, 0, 0, '0', '0/0', '', 0, 'empty', '(,)', '(,)', '{}', '(,,)',
     '(,,,)', '{}', '{}', '{}', '::1', '', '1969-12-31', '1969-12-31 23:59:59.999999+00')"#;

#[tokio::test]
async fn every_kind_is_equal_in_every_store() {
    let _turn = services::shared().await;
    let mut world = World::new(TYPES, &["public.parts"]).await;
    world.run(VALUES).await;
    world.start();
    world.wait_equal().await;
    let rest =
        "gap, wide, below, tiny, cash, o, x, at, words, p, r, nr, tr, mr, c, n, cs, rs, gaps,
        net, bits, day, moment";
    world.run(&format!("INSERT INTO parts SELECT id + 10, {rest} FROM parts")).await;
    world.run("UPDATE parts SET words = 'z=>1', r = '[7,9)', mr = NULL, c = NULL, gap = '-1 mon' WHERE id = 1.50").await;
    world.run("UPDATE parts SET id = 77.25 WHERE id = 13; DELETE FROM parts WHERE id = -2").await;
    world.wait_equal().await;
    assert_eq!(world.number("SELECT count(*) FROM parts").await, 5);
    world.stop().await;
}

/// What a column cannot hold becomes null, is counted, and stops nobody.
#[tokio::test]
async fn a_value_that_does_not_fit_stops_nobody() {
    let _turn = services::shared().await;
    let schema = "CREATE TABLE odd (id int PRIMARY KEY, n numeric(5,2), a int[], ts timestamp)";
    let mut world = World::new(schema, &["public.odd"]).await;
    world.start();
    // What is there before the copy would be null by then.
    world.run("INSERT INTO odd VALUES (9, 1, '{1}', NULL)").await;
    world.wait_equal().await;
    world
        .run(
            "INSERT INTO odd VALUES (1, 'NaN', '{{1,2},{3,4}}', NULL), (2, 1.5, '{1}', '2026-01-01');
             UPDATE odd SET n = NULL, a = NULL WHERE id = 1",
        )
        .await;
    world.wait_equal().await;
    let report = world.wait_status("all is well", Report::is_healthy).await;
    assert!(report.is_healthy());
    assert!(world.log().contains("in place of a number that is NaN"), "{}", world.log());
    world.stop().await;
}
