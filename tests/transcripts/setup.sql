-- What the transcripts find in a server. The superuser runs it once, one statement after the other; the last table is
-- the sign that it is all there.
create role app_closed nologin;
create role app_full login connection limit 0;
create database transcript_closed template template0;
revoke connect on database transcript_closed from public;
create table transcript_copy (id int, name text);
grant all on transcript_copy to app_trust;
create function transcript_notice(text) returns text language plpgsql
    as $$ begin raise notice 'said %', $1 using detail = 'a detail', hint = 'a hint'; return $1; end $$;
create table transcript_items (id int primary key, name text);
insert into transcript_items select n, 'item ' || n from generate_series(1, 10) n;
grant all on transcript_items to app_trust;
