-- When and where a version was live, for how long, and in all
-- question: Q9
-- param rev REVISION: the version
-- param now TIME = now: when what is live still counts until
SELECT environment, deployment, since, until, seconds, sum(seconds) OVER () AS seconds_in_all
FROM (
  SELECT d.environment, d.deployment, d.event, d.time AS since, d.until,
    max(0, round((julianday(coalesce(d.until, :now)) - julianday(d.time)) * 86400, 3)) AS seconds
  FROM v_deployments d
  WHERE d.revision = :rev)
ORDER BY event
