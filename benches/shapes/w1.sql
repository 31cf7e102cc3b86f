-- W1: the rows of pgbench's TPC-B-like transactions: three updates and an insert each.
CREATE TABLE public.w1_accounts (aid integer PRIMARY KEY, bid integer, abalance integer, filler char(84));
CREATE TABLE public.w1_tellers (tid integer PRIMARY KEY, bid integer, tbalance integer, filler char(84));
CREATE TABLE public.w1_branches (bid integer PRIMARY KEY, bbalance integer, filler char(88));
CREATE TABLE public.w1_history (
    hid bigint PRIMARY KEY, tid integer, bid integer, aid integer, delta integer, mtime timestamptz, filler char(22)
);
INSERT INTO public.w1_accounts SELECT n, n / 10000, 0, '' FROM generate_series(0, 99999) AS n;
INSERT INTO public.w1_tellers SELECT n, n / 10, 0, '' FROM generate_series(0, 99) AS n;
INSERT INTO public.w1_branches SELECT n, 0, '' FROM generate_series(0, 9) AS n;
CREATE PROCEDURE public.load_w1(size integer, INOUT events bigint, INOUT ids bigint, INOUT last pg_lsn)
LANGUAGE plpgsql AS $$
DECLARE
    a integer; t integer; b integer; d integer;
BEGIN
    events := 0; ids := 0;
    FOR n IN 1 .. size / 4 LOOP
        a := n::bigint * 7919 % 100000; t := n % 100; b := n % 10; d := n % 10000 - 5000;
        UPDATE public.w1_accounts SET abalance = abalance + d WHERE aid = a;
        UPDATE public.w1_tellers SET tbalance = tbalance + d WHERE tid = t;
        UPDATE public.w1_branches SET bbalance = bbalance + d WHERE bid = b;
        INSERT INTO public.w1_history VALUES (n, t, b, a, d, timestamptz '2026-01-01 00:00:00Z' + n * interval '1 ms');
        events := events + 4; ids := ids + a + t + b + n;
        -- After the last row and before the commit record.
        last := pg_current_wal_insert_lsn();
        COMMIT;
    END LOOP;
END $$;
