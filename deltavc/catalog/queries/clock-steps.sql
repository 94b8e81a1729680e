-- Events whose clock stood before that of the event before them
-- question: Q17
SELECT number AS event, time, before, actor, "user", host, command, summary
FROM (
  SELECT number, time, actor, "user", host, command, summary,
    lag(time) OVER (ORDER BY number) AS before
  FROM v_events)
WHERE time < before
ORDER BY number
