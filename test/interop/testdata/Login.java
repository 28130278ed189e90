import java.security.PrivilegedExceptionAction;
import java.util.HashMap;
import java.util.Map;
import javax.security.auth.Subject;
import javax.security.auth.callback.*;
import javax.security.auth.login.*;
import org.ietf.jgss.*;

/** Logs a user in by password and a service in by keytab, and takes a message from one to the other under a GSS context. */
public class Login {
	static final GSSManager manager = GSSManager.getInstance();

	static Subject login(Map<String, String> options, String password) throws LoginException {
		CallbackHandler handler = callbacks -> {
			for (Callback c : callbacks)
				if (c instanceof PasswordCallback)
					((PasswordCallback) c).setPassword(password.toCharArray());
		};
		Configuration configuration = new Configuration() {
			@Override
			public AppConfigurationEntry[] getAppConfigurationEntry(String name) {
				return new AppConfigurationEntry[] { new AppConfigurationEntry("com.sun.security.auth.module.Krb5LoginModule",
						AppConfigurationEntry.LoginModuleControlFlag.REQUIRED, options) };
			}
		};
		LoginContext context = new LoginContext("charon", null, handler, configuration);
		context.login();
		return context.getSubject();
	}

	public static void main(String[] args) throws Exception {
		String user = args[0], password = args[1], service = args[2], keytab = args[3];
		Oid krb5 = new Oid("1.2.840.113554.1.2.2"), name = new Oid("1.2.840.113554.1.2.2.1");

		Map<String, String> byPassword = new HashMap<>();
		byPassword.put("principal", user);
		Subject client = login(byPassword, password);
		Map<String, String> byKeytab = new HashMap<>();
		byKeytab.put("principal", service);
		byKeytab.put("useKeyTab", "true");
		byKeytab.put("storeKey", "true");
		byKeytab.put("keyTab", keytab);
		byKeytab.put("isInitiator", "false");
		Subject server = login(byKeytab, "");

		GSSContext initiator = Subject.doAs(client, (PrivilegedExceptionAction<GSSContext>) () -> manager
				.createContext(manager.createName(service, name), krb5, null, GSSContext.DEFAULT_LIFETIME));
		initiator.requestMutualAuth(true);
		GSSContext acceptor = Subject.doAs(server, (PrivilegedExceptionAction<GSSContext>) () -> manager
				.createContext(manager.createCredential(null, GSSCredential.INDEFINITE_LIFETIME, krb5, GSSCredential.ACCEPT_ONLY)));

		byte[] token = new byte[0];
		while (!initiator.isEstablished()) {
			final byte[] in = token;
			byte[] out = Subject.doAs(client, (PrivilegedExceptionAction<byte[]>) () -> initiator.initSecContext(in, 0, in.length));
			if (out != null)
				token = Subject.doAs(server, (PrivilegedExceptionAction<byte[]>) () -> acceptor.acceptSecContext(out, 0, out.length));
		}
		byte[] message = "over the river".getBytes();
		byte[] wrapped = initiator.wrap(message, 0, message.length, new MessageProp(true));
		byte[] unwrapped = acceptor.unwrap(wrapped, 0, wrapped.length, new MessageProp(true));
		System.out.println(acceptor.getSrcName() + " mutual=" + initiator.getMutualAuthState() + " message=" + new String(unwrapped));
	}
}
