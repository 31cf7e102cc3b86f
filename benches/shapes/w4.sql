-- W4: wide rows. Of every 1,000 inserts 990 have 1.6 kB in the row and 10 have 100 kB out of line.
CREATE TABLE public.w4 (id bigint PRIMARY KEY, kind integer, body text);
ALTER TABLE public.w4 ALTER body SET STORAGE EXTERNAL;
CREATE PROCEDURE public.load_w4(size integer, INOUT events bigint, INOUT ids bigint, INOUT last pg_lsn)
LANGUAGE plpgsql AS $$
BEGIN
    FOR block IN 0 .. size / 500 - 1 LOOP
        INSERT INTO public.w4
        SELECT n, n % 7, repeat(md5(n::text), CASE WHEN n % 100 = 0 THEN 3200 ELSE 50 END)
        FROM generate_series(block * 100::bigint, block * 100::bigint + 99) AS n;
        last := pg_current_wal_insert_lsn();
        COMMIT;
    END LOOP;
    SELECT count(*), sum(id) INTO events, ids FROM public.w4;
END $$;
