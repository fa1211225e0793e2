package cli

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"go/ast"
	"go/parser"
	"go/token"
	"math/big"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	fp "github.com/pgobj/pgobj/test/faultproxy"
	"github.com/pgobj/pgobj/test/pgtest"
	"github.com/pgobj/pgobj/test/s3server"
	"github.com/pgobj/pgobj/test/site"
	"github.com/pgobj/pgobj/test/testenv"
)

// kinds reads the table of causes: the name of each error, and its kind.
func kinds(t *testing.T) map[string]string {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), "../../cmd/cli/causes.go", nil, 0)
	site.Must(t, err)
	table := map[string]string{}
	ast.Inspect(f, func(n ast.Node) bool {
		entry, ok := n.(*ast.CompositeLit)
		if !ok || len(entry.Elts) != 4 {
			return true
		}
		name := ""
		switch e := entry.Elts[0].(type) {
		case *ast.Ident:
			name = e.Name
		case *ast.SelectorExpr:
			name = e.X.(*ast.Ident).Name + "." + e.Sel.Name
		}
		if text, ok := entry.Elts[2].(*ast.BasicLit); ok {
			table[name], err = strconv.Unquote(text.Value)
			site.Must(t, err)
		}
		return false
	})
	return table
}

// causeRig makes causes happen, and sees to it that each is told apart.
type causeRig struct {
	site.Site
	table map[string]string
}

// gives runs a command in an environment that is made of env alone, and wants a cause's kind and an exit code.
func (r *causeRig) gives(t *testing.T, cause string, code int, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(r.Pgobj, args...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "AWS_EC2_METADATA_DISABLED=true", "PGOBJ_RETRY_FOR=300ms", "PGOBJ_CONFIG=none", site.JSONLog}, env...)
	r.says(t, cause, code, site.Finish(t, testenv.AsPostgres(cmd)))
}

func (r *causeRig) says(t *testing.T, cause string, code int, o site.Outcome) {
	t.Helper()
	kind, known := r.table[cause]
	if !known {
		t.Fatalf("the table has no %s", cause)
	}
	if f := o.Failure(); o.Code != code || f.Kind != kind || f.Hint == "" {
		t.Errorf("%s: want exit code %d, kind %s and a hint: %v", cause, code, kind, o)
	}
}

// complete sees to it that the causes of a group of the table are all tested.
func (r *causeRig) complete(t *testing.T, group string, tested ...string) {
	t.Helper()
	for name := range r.table {
		if strings.HasPrefix(name, group) && !slices.Contains(tested, name) {
			t.Errorf("nothing makes %s happen", name)
		}
	}
}

// certified is a TLS server with a certificate for one name, until a time, and the file of the authority to trust.
func certified(t *testing.T, name string, until time.Time) (url, ca string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	site.Must(t, err)
	cert := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: until.Add(-48 * time.Hour), NotAfter: until, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, DNSNames: []string{name}, IPAddresses: []net.IP{net.ParseIP(name)}}
	if cert.IPAddresses[0] == nil {
		cert.IPAddresses = nil
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, &key.PublicKey, key)
	site.Must(t, err)
	server := httptest.NewUnstartedServer(nil)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	server.StartTLS()
	t.Cleanup(server.Close)
	ca = filepath.Join(testenv.Dir(t), "ca.pem")
	site.WriteFile(t, ca, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})), 0o644)
	return server.URL, ca
}

// nowhere is a name that no resolver is asked for, as a label of it is too long: so the tests need none.
var nowhere = strings.Repeat("x", 64) + ".example"

// Every cause of trouble with settings and the storage: real servers, real TLS, real directories, and the whole program.
func TestCausesOfTheStorage(t *testing.T) {
	r := &causeRig{site.Site{Pgobj: testenv.Pgobj(t)}, kinds(t)}
	plain, secure, versity := s3server.ForTest(t, s3server.MinIOConsole), s3server.ForTest(t, s3server.MinIOTLS), s3server.ForTest(t, s3server.VersityTLS)
	proxy := fp.ForTest(t, plain.Endpoint)
	env := func(server *s3server.Server, kv ...string) []string {
		return slices.Concat(server.Env(), []string{"PGOBJ_STORAGE=" + server.URL("p"), "PGOBJ_S3_ENDPOINT=" + server.Endpoint}, kv)
	}
	swap := func(url, scheme string) string { _, host, _ := strings.Cut(url, "://"); return scheme + "://" + host }
	dir := testenv.Dir(t)
	conf := filepath.Join(dir, "conf")

	site.WriteFile(t, conf, "PGOBJ_STORAGE=file://"+dir+"\n", 0o600)
	r.gives(t, "config.ErrUnreadable", 2, nil, "--config", filepath.Join(dir, "none"), "backup-list")
	site.Must(t, os.Chown(conf, 0, 0))
	r.gives(t, "config.ErrUnreadable", 2, nil, "--config", conf, "backup-list")
	for _, c := range []struct {
		mode  os.FileMode
		owner int
	}{{0o606, 0}, {0o664, 0}, {0o644, 12345}} {
		site.Must(t, os.Chown(conf, c.owner, c.owner))
		site.Must(t, os.Chmod(conf, c.mode))
		r.gives(t, "owned.ErrStranger", 2, nil, "--config", conf, "backup-list")
	}
	site.Must(t, os.Chown(conf, 0, 0))
	site.Must(t, os.Chmod(conf, 0o644))
	link := filepath.Join(dir, "link")
	site.Must(t, os.Symlink(conf, link))
	site.Must(t, os.Lchown(link, 12345, 12345))
	r.gives(t, "owned.ErrStranger", 2, nil, "--config", link, "backup-list")

	for _, driver := range []string{"aws", "minio"} {
		d := "PGOBJ_S3_DRIVER=" + driver
		r.gives(t, "storage.ErrUntrusted", 5, env(secure, d), "backup-list")
		late, ca := certified(t, "127.0.0.1", time.Now().Add(-time.Hour))
		r.gives(t, "storage.ErrExpired", 5, env(plain, d, "PGOBJ_S3_ENDPOINT="+late, "PGOBJ_S3_CA_FILE="+ca), "backup-list")
		other, ca := certified(t, "elsewhere.example", time.Now().Add(time.Hour))
		r.gives(t, "storage.ErrWrongName", 5, env(plain, d, "PGOBJ_S3_ENDPOINT="+other, "PGOBJ_S3_CA_FILE="+ca), "backup-list")
		r.gives(t, "storage.ErrUnknownHost", 5, env(plain, d, "PGOBJ_S3_ENDPOINT=http://"+nowhere+":9000"), "backup-list")
		r.gives(t, "storage.ErrNoTLS", 5, env(plain, d, "PGOBJ_S3_ENDPOINT="+swap(plain.Endpoint, "https")), "backup-list")
		r.gives(t, "storage.ErrOnlyTLS", 5, env(secure, d, "PGOBJ_S3_ENDPOINT="+swap(secure.Endpoint, "http")), "backup-list")
		r.gives(t, "storage.ErrOnlyTLS", 5, env(versity, d, "PGOBJ_S3_ENDPOINT="+swap(versity.Endpoint, "http")), "backup-list")
		r.gives(t, "storage.ErrNotS3", 5, env(plain, d, "PGOBJ_S3_ENDPOINT="+plain.Console), "backup-list")
		r.gives(t, "storage.ErrNoBucket", 5, env(plain, d, "PGOBJ_STORAGE=s3://no-such-bucket/p"), "backup-list")
		r.gives(t, "storage.ErrWrongRegion", 5, env(versity, d, "PGOBJ_S3_CA_FILE="+readable(t, versity.CAFile), "AWS_REGION=eu-south-9"), "backup-list")
		r.gives(t, "storage.ErrBadCredentials", 4, env(plain, d, "AWS_SECRET_ACCESS_KEY=wrong"), "backup-list")
		r.gives(t, "storage.ErrNoCredentials", 4, env(plain, d, "AWS_SECRET_ACCESS_KEY=", "AWS_ACCESS_KEY_ID="), "backup-list")

		proxied := env(plain, d, "PGOBJ_S3_ENDPOINT="+proxy.URL)
		proxy.Reset()
		proxy.On(fp.Always, fp.SetHeader("X-Amz-Date", time.Now().UTC().Add(-time.Hour).Format("20060102T150405Z")))
		r.gives(t, "storage.ErrClock", 3, proxied, "backup-list")
		proxy.Reset()
		proxy.On(func(q fp.Request) bool { return q.N > 1 }, fp.Fail(404, ""))
		r.gives(t, "storage.ErrInItsPlace", 3, proxied, "backup-list")

		// The client asks no resolver for a name that the proxy connects to.
		byProxy := env(plain, d, "HTTP_PROXY="+proxy.URL, "HTTPS_PROXY="+proxy.URL)
		proxy.Reset()
		proxy.On(fp.Always, fp.Fail(407, ""))
		r.gives(t, "storage.ErrProxy", 4, append(byProxy, "PGOBJ_S3_ENDPOINT=http://storage.example:9000"), "backup-list")
		proxy.Reset()
		proxy.On(fp.Method("CONNECT"), fp.Fail(403, ""))
		r.gives(t, "storage.ErrProxy", 4, append(byProxy, "PGOBJ_S3_ENDPOINT=https://storage.example"), "backup-list")
		proxy.Reset()
		proxy.On(func(q fp.Request) bool { return q.N > 1 }, fp.Fail(403, ""))
		r.gives(t, "storage.ErrProxy", 3, append(byProxy, "PGOBJ_S3_ENDPOINT=http://storage.example:9000"), "backup-list")
	}
	r.gives(t, "storage.ErrNoRegion", 5, append(plain.Env(), "AWS_REGION=", "PGOBJ_STORAGE=s3://bucket/p"), "backup-list")

	r.gives(t, "storage.ErrNoDirectory", 5, []string{"PGOBJ_STORAGE=file://" + dir + "/none"}, "backup-list")
	roots := filepath.Join(dir, "roots")
	site.Must(t, os.Mkdir(roots, 0o700))
	r.gives(t, "storage.ErrDirectoryRights", 4, []string{"PGOBJ_STORAGE=file://" + roots}, "backup-list")
	small, _ := site.Tmpfs(t, 64<<10)
	rig := site.NewWALRig(t, site.Store{Settings: []string{site.JSONLog, "PGOBJ_STORAGE=file://" + small}, Directory: small})
	noise := make([]byte, site.Mib)
	_, err := rand.Read(noise)
	site.Must(t, err)
	head := site.WalHeader(site.Wal1, rig.Sysid, site.Mib)
	r.says(t, "storage.ErrFull", 1, rig.Push(t, site.Wal1, append(head, noise[len(head):]...)))

	r.complete(t, "storage.", "storage.ErrUntrusted", "storage.ErrExpired", "storage.ErrWrongName", "storage.ErrUnknownHost", "storage.ErrNoTLS",
		"storage.ErrOnlyTLS", "storage.ErrNotS3", "storage.ErrNoBucket", "storage.ErrWrongRegion", "storage.ErrBadCredentials", "storage.ErrNoCredentials",
		"storage.ErrClock", "storage.ErrInItsPlace", "storage.ErrProxy", "storage.ErrNoRegion", "storage.ErrNoDirectory", "storage.ErrDirectoryRights", "storage.ErrFull")
}

// readable is a copy of a file that the user postgres can read.
func readable(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	site.Must(t, err)
	name := filepath.Join(testenv.Dir(t), filepath.Base(file))
	site.WriteFile(t, name, string(data), 0o644)
	return name
}

// Every cause of trouble with the connection to PostgreSQL, each by a real server's own answer.
func TestCausesOfTheConnection(t *testing.T) {
	certs := testenv.Dir(t)
	site.Must(t, s3server.MakeCerts(certs))
	key := filepath.Join(certs, "private.key")
	site.Must(t, os.Chmod(key, 0o600))
	site.Must(t, testenv.ChownPostgres(key))
	c := pgtest.Start(t, pgtest.Options{TCP: true, Conf: []string{"ssl = on", "ssl_cert_file = '" + filepath.Join(certs, "public.crt") + "'",
		"ssl_key_file = '" + key + "'", "max_connections = 3", "superuser_reserved_connections = 0", "max_wal_senders = 0", "wal_level = replica"}})
	r := &causeRig{site.Site{Pgobj: testenv.Pgobj(t), Cluster: c}, kinds(t)}
	repo := "PGOBJ_STORAGE=file://" + testenv.Dir(t)
	hba := func(lines string) {
		t.Helper()
		site.WriteFile(t, filepath.Join(c.Data, "pg_hba.conf"), lines+"\nlocal all postgres trust\n", 0o600)
		before := c.SQL(t, `SELECT pg_conf_load_time()`)
		c.Exec(t, `SELECT pg_reload_conf()`)
		c.Eventually(t, `SELECT pg_conf_load_time() > '`+before+`'`, "t")
	}
	gives := func(cause string, kv ...string) {
		t.Helper()
		r.gives(t, cause, site.ExitPostgres, slices.Concat(c.Env(), []string{repo}, kv), "backup-push")
	}
	c.Exec(t, `CREATE ROLE someone SUPERUSER LOGIN PASSWORD 'secret'`)
	c.Exec(t, `CREATE ROLE group_only`)

	hba("local all someone,nobody_there peer\nhost all someone 127.0.0.1/32 scram-sha-256\nlocal all group_only trust\nlocal all absent trust")
	gives("server.ErrIdentity", "PGUSER=someone")
	gives("server.ErrPassword", "PGUSER=someone", "PGHOST=127.0.0.1", "PGPASSWORD=wrong")
	gives("server.ErrPassword", "PGUSER=someone", "PGHOST=127.0.0.1")
	gives("server.ErrNoLine", "PGUSER=postgres", "PGHOST=127.0.0.1")
	gives("server.ErrNoRole", "PGUSER=absent")
	gives("server.ErrNoRole", "PGUSER=group_only")
	gives("server.ErrNoDB", "PGDATABASE=absent")
	gives("server.ErrHost", "PGHOST="+nowhere)
	gives("server.ErrSocket", "PGPORT=1")
	wrong := testenv.Dir(t)
	site.Must(t, s3server.MakeCerts(wrong))
	gives("server.ErrTLS", "PGUSER=someone", "PGHOST=127.0.0.1", "PGSSLMODE=verify-full", "PGSSLROOTCERT="+filepath.Join(wrong, "CAs/ca.crt"))

	site.Must(t, os.Chmod(c.SocketDir, 0o711))
	site.Must(t, os.Chmod(filepath.Join(c.SocketDir, ".s.PGSQL."+strconv.Itoa(c.Port)), 0o700))
	cmd := exec.Command(r.Pgobj, "backup-push")
	open := testenv.Dir(t)
	site.Must(t, os.Chmod(open, 0o755))
	cmd.Env = append(c.Env(), site.JSONLog, "PGOBJ_STORAGE=file://"+open)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	r.says(t, "server.ErrNobody", site.ExitPostgres, site.Finish(t, cmd))

	sleepers, wake := context.WithCancel(t.Context())
	for range 3 {
		go func() { // ends with the test
			for sleepers.Err() == nil {
				_, _ = c.Query(sleepers, "postgres", `SELECT pg_sleep(600)`) // another one may have been faster
			}
		}()
	}
	testenv.Eventually(t, site.Patience, "all connections are taken", func() bool {
		_, err := c.Query(t.Context(), "postgres", `SELECT 1`)
		return err != nil
	})
	gives("server.ErrTooMany")
	wake()

	c.Stop(t, "immediate")
	site.WriteFile(t, filepath.Join(c.Data, "standby.signal"), "", 0o600)
	site.Must(t, c.AppendConf("hot_standby = off"))
	launched, end := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Launch(launched) }()
	testenv.Eventually(t, site.Patience, "the server has its socket", func() bool {
		_, err := os.Stat(filepath.Join(c.SocketDir, ".s.PGSQL."+strconv.Itoa(c.Port)))
		return err == nil
	})
	gives("server.ErrNotYet")
	end()
	if err := <-done; err == nil {
		t.Error("the standby takes connections")
	}
	c.Stop(t, "immediate")

	r.complete(t, "server.", "server.ErrIdentity", "server.ErrPassword", "server.ErrNoLine", "server.ErrNoRole", "server.ErrNoDB", "server.ErrHost",
		"server.ErrSocket", "server.ErrTLS", "server.ErrNobody", "server.ErrTooMany", "server.ErrNotYet")
}
