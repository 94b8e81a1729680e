-- Who signed a version, with which key; whether a signature holds, audit verify says
-- question: Q10
-- param rev REVISION: the version
SELECT s.object, s.kind, s.signer, s.key, s.time, s.event
FROM v_signatures s
WHERE s.object = :rev
ORDER BY s.event, s.id
