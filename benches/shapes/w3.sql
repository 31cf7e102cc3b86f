-- W3: inserts of 16 columns like those of TPC-H's lineitem, 1,000 a transaction.
CREATE TABLE public.w3 (
    l_id bigint PRIMARY KEY, l_orderkey bigint, l_partkey integer, l_suppkey integer,
    l_quantity numeric(15,2), l_extendedprice numeric(15,2), l_discount numeric(15,2), l_tax numeric(15,2),
    l_returnflag char(1), l_linestatus char(1), l_shipdate date, l_commitdate date, l_receiptdate date,
    l_shipinstruct char(25), l_shipmode char(10), l_comment varchar(44)
);
CREATE PROCEDURE public.load_w3(size integer, INOUT events bigint, INOUT ids bigint, INOUT last pg_lsn)
LANGUAGE plpgsql AS $$
BEGIN
    FOR block IN 0 .. size / 1000 - 1 LOOP
        INSERT INTO public.w3
        SELECT n, n / 4, n * 7919 % 200000, n % 10000, n % 50 + 1, n * 137 % 10494950 * 0.01, n % 11 * 0.01,
               n % 9 * 0.01, substr('RAN', (n % 3)::integer + 1, 1), substr('OF', (n % 2)::integer + 1, 1),
               date '1992-01-01' + (n % 2500)::integer, date '1992-02-01' + (n % 2400)::integer,
               date '1992-01-15' + (n % 2500)::integer, 'DELIVER IN PERSON', 'TRUCK', left(md5(n::text), 10 + (n % 20)::integer)
        FROM generate_series(block * 1000::bigint, block * 1000::bigint + 999) AS n;
        last := pg_current_wal_insert_lsn();
        COMMIT;
    END LOOP;
    SELECT count(*), sum(l_id) INTO events, ids FROM public.w3;
END $$;
